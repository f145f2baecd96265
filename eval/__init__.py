"""How good it is: a frozen backbone, measured."""
