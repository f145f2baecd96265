"""How good a frozen backbone is: probed, and read as a stream."""
