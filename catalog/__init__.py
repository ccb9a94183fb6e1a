"""The truth on disk: functions, versions, aliases, keys, builds. The only SQL."""
