"""The table of routes that an organization's received mail goes through: `/v1/routes`."""
