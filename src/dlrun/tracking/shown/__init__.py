"""What each task shows: one module per task, with ``drawings(look)`` that gives a way to draw each picture."""
