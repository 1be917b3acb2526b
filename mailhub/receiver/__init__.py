"""The receiver-SMTP of RFC 821's words: answers what a client asks, and turns one transaction into one durable message.

It knows neither sockets nor files: events come in, replies go out, and the spool takes the content.
"""
