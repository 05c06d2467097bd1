"""`meterstream verify`: does it all add up, within Postgres, against the source topics, against live state?"""
