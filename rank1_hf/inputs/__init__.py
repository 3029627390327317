"""What users hand over, checked: values, the fields of records, text files. Read `textfiles.py` first."""
