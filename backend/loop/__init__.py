"""One round: observe, train, evaluate, promote, push. And the processes that run it."""
