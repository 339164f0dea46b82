"""A sweep as one object: its space, its study, its trials and what came of them."""
