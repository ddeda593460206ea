"""One-off jobs of commands: advice, label errors, similar images, exports."""
