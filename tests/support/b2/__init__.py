"""The rooms of the test server: what B2 stores, what it answers, how HTTP carries it, and how it fails."""
