"""A thousand made-up values of every kind, planted in prose, JSON, markdown, URLs, logs and code: none survives."""

import hashlib
import json
import random
import string
from collections.abc import Callable

import pytest

from policies.redaction import KINDS, Redactor, residual_scan

COUNT = 1000
REDACTOR = Redactor()


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def token(rng: random.Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count - 2)) + rng.choice(string.digits) + rng.choice(alphabet)


def email(rng: random.Random) -> str:
    user = rng.choice(["jo.bloggs", "o'brien", "x_y-z", "first+tag", "müller", "A1"]) + digits(rng, 3)
    host = rng.choice(["example.com", "mail.co.uk", "bücher.example", "a-b.museum"])
    return f"{user}{rng.choice(['@', '%40', ' (at) '])}{host}"


def phone(rng: random.Random) -> str:
    area, line = f"{rng.randint(2, 9)}{digits(rng, 2)}", f"{rng.randint(2, 9)}{digits(rng, 2)}"
    shape = rng.choice(
        ["{a}-{b}-{c}", "({a}) {b}-{c}", "+1 {a} {b} {c}", "+1{a}{b}{c}", "001-{a}-{b}-{c}", "{a}.{b}.{c}x12"]
    )
    other = rng.choice(
        ["+44 20 7946 0{d}", "020 7946 0{d}", "+49 30 9018 2{d}", "+33 1 42 68 5{d}", "+46 (0)8 928 571 {d}"]
    )
    return rng.choice([shape, other]).format(a=area, b=line, c=digits(rng, 4), d=digits(rng, 3))


def card(rng: random.Random) -> str:
    prefix, size = rng.choice(
        [("4", 16), ("51", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("3530", 16), ("36", 14)]
    )
    body = prefix + digits(rng, size - len(prefix) - 1)
    total = sum(sum(divmod(int(char) * (2 if at % 2 == 0 else 1), 10)) for at, char in enumerate(reversed(body)))
    number = body + str(-total % 10)
    if size == 16:
        sign = rng.choice(["", " ", "-", "\u00a0", "\u2013"])
        number = sign.join(number[at : at + 4] for at in range(0, 16, 4))
    return rng.choice(
        [number, number, number.translate({48 + at: 0xFF10 + at for at in range(10)}), "\u200b".join(number)]
    )


def iban(rng: random.Random) -> str:
    country, bban = rng.choice(
        [("GB", "WEST" + digits(rng, 14)), ("DE", digits(rng, 18)), ("NO", digits(rng, 11)), ("FR", digits(rng, 23))]
    )
    number = int("".join(str(int(char, 36)) for char in bban + country + "00"))
    text = f"{country}{98 - number % 97:02}{bban}"
    return rng.choice([text, text.lower(), " ".join(text[at : at + 4] for at in range(0, len(text), 4))])


def ssn(rng: random.Random) -> str:
    area = rng.choice([rng.randint(1, 665), rng.randint(667, 899)])
    return f"{area:03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"


def national(rng: random.Random) -> str:
    number = rng.randint(10_000_000, 99_999_999)
    cpf = [rng.randint(0, 9) for _ in range(9)]
    for size in (10, 11):
        cpf.append(sum(digit * weight for digit, weight in zip(cpf, range(size, 1, -1), strict=True)) * 10 % 11 % 10)
    flat = "".join(map(str, cpf))
    return rng.choice([
        f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}",
        f"AB{digits(rng, 6)}C",
        f"{flat[:3]}.{flat[3:6]}.{flat[6:9]}-{flat[9:]}",
        f"NHS number {digits(rng, 3)} {digits(rng, 3)} {digits(rng, 4)}",
        f"PESEL: {digits(rng, 11)}",
    ])  # fmt: skip


def vin(rng: random.Random) -> str:
    alphabet = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
    values = dict(
        zip(
            "0123456789ABCDEFGHJKLMNPRSTUVWXYZ",
            [*range(10), *range(1, 9), 1, 2, 3, 4, 5, 7, 9, *range(2, 10)],
            strict=True,
        )
    )
    text = "1HG" + token(rng, 14, alphabet)
    total = sum(
        values[char] * weight
        for char, weight in zip(text, (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2), strict=True)
    )
    return text[:8] + "0123456789X"[total % 11] + text[9:]


def coin(rng: random.Random) -> str:
    raw = bytes([rng.choice([0, 5])]) + rng.randbytes(20)
    raw += hashlib.sha256(hashlib.sha256(raw).digest()).digest()[:4]
    number, text = int.from_bytes(raw), ""
    while number:
        number, rest = divmod(number, 58)
        text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[rest] + text
    base58 = "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text
    return rng.choice([base58, "0x" + rng.randbytes(20).hex(), "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"])


def api_key(rng: random.Random) -> str:
    letters = string.ascii_letters + string.digits
    return rng.choice([
        "AKIA" + token(rng, 16, string.ascii_uppercase + string.digits),
        "ghp_" + token(rng, 36), "github_pat_" + token(rng, 40),
        "sk-proj-" + token(rng, 40), "sk-ant-api03-" + token(rng, 40), "sk-" + token(rng, 48),
        "xoxb-" + digits(rng, 12) + "-" + token(rng, 24),
        "AIza" + token(rng, 35), "sk_live_" + token(rng, 24), "hf_" + token(rng, 34),
        "glpat-" + token(rng, 20), "npm_" + token(rng, 36),
        "eyJhbGciOiJIUzI1NiJ9.eyJ" + token(rng, 20, letters) + "." + token(rng, 43, letters),
    ])  # fmt: skip


def secret(rng: random.Random) -> str:
    value = token(rng, 12)
    shapes = [
        "password={}",
        "DB_PASSWORD: {}",
        "Authorization: Bearer {}abcdef",
        "api_key = '{}'",
        "my password is {}",
        "client_secret: {}x",
    ]
    return rng.choice(shapes).format(value)


def private_key(rng: random.Random) -> str:
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{token(rng, 64)}\n{token(rng, 64)}\n-----END {kind}PRIVATE KEY-----"


def dob(rng: random.Random) -> str:
    date = rng.choice(["{y}-{m:02}-{d:02}", "{m}/{d}/{y}", "{d}.{m}.{y}", "{d} March {y}", "March {d}, {y}"])
    words = rng.choice(["born on ", "DOB: ", "date of birth is ", "birthday: "])
    return words + date.format(y=rng.randint(1930, 2010), m=rng.randint(1, 12), d=rng.randint(1, 28))


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "EMAIL": email,
    "PHONE": phone,
    "CREDIT_CARD": card,
    "IBAN": iban,
    "US_SSN": ssn,
    "NATIONAL_ID": national,
    "VIN": vin,
    "CRYPTO_ADDRESS": coin,
    "API_KEY": api_key,
    "SECRET": secret,
    "PRIVATE_KEY": private_key,
    "DATE_OF_BIRTH": dob,
    "BANK_ACCOUNT": lambda rng: rng.choice(
        ["account number {}", "acct no. {}", "account: {}", "routing number {}"]
    ).format(digits(rng, 9)),
    "PASSPORT": lambda rng: rng.choice(["passport number {}", "passport no: {}", "passport {}"]).format(
        "C" + digits(rng, 8)
    ),
    "DRIVER_LICENSE": lambda rng: rng.choice(["driver's license number is {}", "driving licence {}", "DL: {}"]).format(
        "D" + digits(rng, 7)
    ),
    "POSTAL_CODE": lambda rng: rng.choice(["zip code {}", "postal code: {}", "zip is {}"]).format(digits(rng, 5)),
    "ADDRESS": lambda rng: " ".join(
        (
            str(rng.randint(1, 9999)),
            rng.choice(["Oak", "Elm Park", "Königs"]),
            rng.choice(["Street", "Ave", "Road", "Lane"]),
        )
    ),
    "IP_ADDRESS": lambda rng: rng.choice(
        [f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.7", f"2001:db8::{rng.randint(16, 9999):x}:1"]
    ),
    "MAC_ADDRESS": lambda rng: rng.choice(":-").join(f"{byte:02x}" for byte in rng.randbytes(6)),
    "URL": lambda rng: f"https://host{digits(rng, 3)}.example.org/users/{token(rng, 8)}?session={token(rng, 12)}",
}

PLACES = (
    "Please note {} in the file.",
    "{}",
    "({}), and so on",
    "The value was {}.",
    "| id | value |\n|---|---|\n| 7 | {} |\n",
    "**{}** is what I gave you",
    "- first\n- {}\n- last",
    'client.send(to="{}", retries=3)',
    "2026-01-02T10:00:00Z INFO handler=pay user={} status=ok",
    "<row><cell>{}</cell></row>",
    "name,{},status",
    "# TODO remove {} before release\nreturn 0",
    "He wrote: “{}” — and left.",
    "Zoë’s note: {} \u2026",
)


ANNOUNCED = {"SECRET", "NATIONAL_ID", "DATE_OF_BIRTH", "BANK_ACCOUNT", "PASSPORT", "DRIVER_LICENSE", "POSTAL_CODE"}


def secret_part(kind: str, value: str) -> str:
    """The value without the words that announce it."""
    if kind == "PRIVATE_KEY":
        return value.split("\n")[1]
    return value.replace("'", "").replace("=", " ").split(" ")[-1] if kind in ANNOUNCED else value


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_canary_survives(kind):
    rng = random.Random(kind)
    survivors = []
    for at in range(COUNT):
        value = MAKERS[kind](rng)
        text = PLACES[at % len(PLACES)].format(value)
        redacted = REDACTOR.redact(text)
        if secret_part(kind, value) in redacted.text or not redacted.spans:
            survivors.append((text, redacted.text))
    assert survivors == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_canary_survives_in_json(kind):
    rng = random.Random(kind + "json")
    survivors = []
    for at in range(COUNT // 4):
        value = MAKERS[kind](rng)
        inner = json.dumps({"to": f"see {value} there", "n": 3}, ensure_ascii=at % 2 == 0)
        outer = json.dumps({"arguments": inner})
        for clean in (
            REDACTOR.redact(inner).text,
            REDACTOR.redact(outer).text,
            json.dumps(REDACTOR.redact_json(json.loads(inner))),
        ):
            if secret_part(kind, value) in clean or json.dumps(value)[1:-1] in clean:
                survivors.append((value, clean))
    assert survivors == []


@pytest.mark.parametrize("kind", ["EMAIL", "CREDIT_CARD", "IBAN", "US_SSN", "API_KEY"])
def test_the_second_look_sees_what_was_not_taken_out_and_only_that(kind):
    rng = random.Random(kind + "residual")
    for at in range(200):
        value = MAKERS[kind](rng)
        text = PLACES[at % len(PLACES)].format(value)
        assert residual_scan(REDACTOR.redact(text).text) == []
    plain = {
        "EMAIL": "a@b.example",
        "CREDIT_CARD": "4111111111111111",
        "IBAN": "GB82WEST12345698765432",
        "US_SSN": "078-05-1120",
    }
    assert residual_scan("x " + plain.get(kind, "AKIAIOSFODNN7EXAMPLE") + " y") == [kind]
