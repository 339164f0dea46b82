"""Where the time of a training goes: ``dlrun profile``. Everything is measured from outside, nothing in normal runs."""
