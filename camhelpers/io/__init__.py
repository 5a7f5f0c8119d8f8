"""Files in and out: pictures, volumes and their formats; the only rooms that know what a file looks like inside."""
