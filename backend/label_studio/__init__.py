"""All that speaks Label Studio: its configs, API, image addresses, regions and ML protocol."""
