"""Detection: images → boxes or centre points, learned with ultralytics, run by the runtime."""
