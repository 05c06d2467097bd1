"""`meterstream demo`: real usage through the whole pipeline, watched and summed up."""
