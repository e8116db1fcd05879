"""One file for each thing that exists in a cluster; each a Pulumi component."""
