"""Many trials that differ in numbers only, trained as one stacked network; each remains a run of its own."""
