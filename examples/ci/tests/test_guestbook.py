"""What the guestbook does, asked through its web server."""

import json
import os
import unittest
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = Request(os.environ["API"] + path, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


class Guestbook(unittest.TestCase):
    def test_a_message_is_kept(self):
        ask("/messages", {"author": "CI", "text": "it works"})
        self.assertIn(("CI", "it works"), [(message["author"], message["text"]) for message in ask("/messages")])

    def test_a_message_has_an_author(self):
        with self.assertRaises(HTTPError) as refused:
            ask("/messages", {"author": "", "text": "it works"})
        self.assertEqual(refused.exception.code, 422)

    def test_visits_are_counted(self):
        before = ask("/visits")["visits"]
        self.assertEqual(ask("/visits")["visits"], before + 1)
