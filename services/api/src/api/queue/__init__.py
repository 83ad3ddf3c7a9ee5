"""The operator's verbs over waiting mail."""
