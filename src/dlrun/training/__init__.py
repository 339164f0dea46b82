"""When things happen: the loop, its callbacks, the updater of weights, checkpoints."""
