"""Network families, one per file, tensors to tensors: no loss, no device, no batch layout."""
