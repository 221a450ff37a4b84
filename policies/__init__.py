"""Pure decisions: no I/O, no clock, no logging; time and randomness are arguments."""
