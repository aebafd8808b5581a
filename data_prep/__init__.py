"""Raw downloads -> array_record shards that TFDS and Grain read: `python -m data_prep --help`."""
