"""The hive: devices, models and worker processes of one machine."""
