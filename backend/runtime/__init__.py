"""Resources of a process: settings, connections, models and caches; local or remote compute."""
