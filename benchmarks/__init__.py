"""Side by side with what users have today; see README.md."""
