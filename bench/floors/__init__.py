"""What one floor of the house costs for one message, alone: in memory, without sockets, disk or a second process."""
