"""The work of the commands advise, label-errors, similar and export."""
