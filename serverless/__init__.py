"""What runs elsewhere: training and prediction in the cloud. Imports backend, never the reverse."""
