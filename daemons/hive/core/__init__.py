"""What the hive decides, free of I/O and clocks: events in, effects out. `daemons.hive.service` performs them."""
