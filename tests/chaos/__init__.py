"""`make chaos`: three nodes on this machine under load and seeded faults, and everybody's books compared at the end."""
