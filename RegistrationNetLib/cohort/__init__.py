"""Many registrations: plans of pairs on Dask, series in time, the mean of a group. Imports from the packages below it but `training`; only `cli` imports it."""
