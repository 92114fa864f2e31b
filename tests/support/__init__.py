"""Parts that tests share: servers, processes and data, never the thing under test."""
