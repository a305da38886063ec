"""Clips longer than the network was trained for, for students and teachers that see a whole clip at once."""
