"""What a person may set, what is pinned, and the checks on both. No resources are made here."""
