"""One round: observe, train, evaluate, promote, publish."""
