"""Day-2 operations on a running lab: status, snapshots, restore, replacement of machines, fault injection."""
