"""What a process holds open: settings, connections, models, caches, and where compute runs."""
