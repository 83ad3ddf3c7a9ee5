"""Delivery reports and feedback reports. So far what refusals mean: `classify`."""
