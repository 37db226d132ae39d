"""Published checkpoints: read without running anything in them (`reader`), and turned into trackers (`convert`)."""
