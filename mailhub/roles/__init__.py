"""The roles of a mail system (RFC 5598), each a Twisted service that composes the floors below."""
