"""The command `registrationnet`. Imports from every package but `slicer_bridge`; nothing imports it."""
