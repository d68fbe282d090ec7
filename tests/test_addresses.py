"""No secret of an address is printed, however it was mistyped."""

from __future__ import annotations

import pytest

from distill_ray.addresses import check_scheme, masked, masked_text
from distill_ray.errors import RequestError


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        ("runs", "runs"),
        ("/data/me@home/runs", "/data/me@home/runs"),
        ("~/what?/a b%20c#d", "~/what?/a b%20c#d"),
        ("mlruns@work/x", "mlruns@work/x"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("s3://bucket/path@v2", "s3://bucket/path@v2"),
        ("s3://KEY:SECRET@bucket/x", "s3://bucket/x"),
        ("s3://bucket/x?secret_key=SECRET&region=eu", "s3://bucket/x"),
        ("https://SECRET@host/x", "https://host/x"),
        ("http://host:5000/#SECRET", "http://host:5000/"),
        ("sqlite:////a/mlflow.db?key=SECRET", "sqlite:////a/mlflow.db"),
        (
            "postgresql+psycopg://me:SECRET%40@db.example.org:5432/mlflow?sslkey=SECRET",
            "postgresql+psycopg://db.example.org:5432/mlflow",
        ),
    ],
)
def test_well_formed_addresses(address: str, printed: str) -> None:
    assert masked(address) == printed


@pytest.mark.parametrize(
    "address",
    [
        "s3//KEY:SECRET@b/x",
        "s3:/KEY:SECRET@b/x",
        "s3:KEY:SECRET@b/x",
        "S3//KEY:SECRET@b/x",
        "s3//SECRET@b/x",
        "s3:///KEY:SECRET@b/x",
        "KEY:SECRET@b/x",
        "//KEY:SECRET@b/x",
        "://KEY:SECRET@b/x",
        "s4//KEY:SECRET@b/x",
        "htp://KEY:SECRET@b/x",
        "s3//b/x?secret_key=SECRET",
        "b/x?secret_key=SECRET",
        "/b/x?secret_key=SECRET",
        "s3://b/x?access_key=KEY&secret_key=SEC@RET",
        "s3://KEY:SEC/RET@b/x",
        "s3://KEY:SEC?RET@b/x",
        "s3://KEY:SEC#RET@b/x",
        "s3://KEY:SEC@RET@b/x",
        "s3://KEY:SEC@RE/T@b/x",
        "s3://KEY:12/SECRET@b/x",
        "s3://KE/Y:SECRET@b/x",
        "postgresql://me:SEC RET@db/x",
        "postgresql:/me:SECRET@db/x",
        "postgresql+psycopg//me:SECRET@db/x",
        "https//me:SECRET@host",
    ],
)
def test_mistyped_addresses_keep_their_secrets(address: str) -> None:
    for text in (masked(address), masked_text(f"failed: {address} is refused", address)):
        assert not any(secret in text for secret in ("SEC", "RET", "KEY"))


def test_every_address_in_a_text_is_masked() -> None:
    text = (
        "data: {source: s3//KEY:SECRET@b/x}\n"
        "--tracking-uri=http://me:SECRET@host:5000/x 's3:/KEY:SECRET@b'\n"
        "SELECT at postgresql://me:SECRET@db/x?password=SECRET; secret_key=SECRET&region=eu\n"
        "search.KEY:SECRET@b/x=3 'KEY:SECRET@b'"
    )
    assert masked_text(text) == (
        "data: {source: s3//b/x}\n"
        "--tracking-uri=http://host:5000/x 's3:/b'\n"
        "SELECT at postgresql://db/x secret_key=***&region=eu\n"
        "***@b/x=3 '***@b'"
    )


def test_texts_without_secrets_stay_as_they_are() -> None:
    text = "see https://example.org/a/b (10:30, a: 1, teachers: 3): s3 is fine, me@example.org, s3://b/x@2"
    assert masked_text(text) == text


def test_secrets_that_a_library_quotes_decoded() -> None:
    address = "postgresql://me:s3cr%40t@db.example.org:5432/mlflow?sslkey=/very/secret"
    text = masked_text("login me / s3cr@t or s3cr%40t, key /very/secret", address)
    assert text == "login me / *** or ***, key ***"


@pytest.mark.parametrize(
    "address",
    [
        "runs",
        "/a/b",
        "./a:b",
        "../x",
        "~/x",
        "s3",
        "s3/x",
        "s3://b/x",
        "file:///x",
        "file:/x",
        "C:/x",
        "gs://b",
        "hdfs://host:1/x",
        "a b/c?d",
        "../s3:/x",
        "x@y",
    ],
)
def test_paths_and_addresses_of_file_systems_pass(address: str) -> None:
    check_scheme(address, "store")


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        ("s3//KEY:SECRET@b/x", "'s3//b/x': looks like an address, and is none"),
        ("s3:/KEY:SECRET@b/x", "'s3:/b/x': looks like an address, and is none"),
        ("s3:b", "'s3:b': looks like an address, and is none"),
        ("abc:b", "'abc:b': looks like an address, and is none"),
        ("http://host/x", "'http://host/x': 'http' is not a kind of address"),
        ("ftp://me:SECRET@host/x", "'ftp://host/x': 'ftp' is not a kind of address"),
    ],
)
def test_what_looks_like_an_address_and_is_none_is_refused(address: str, printed: str) -> None:
    with pytest.raises(RequestError, match="write one of file://, s3://") as caught:
        check_scheme(address, "store")
    assert str(caught.value).startswith(f"store {printed}")
    assert "SECRET" not in str(caught.value)


def test_drivers_of_databases_are_part_of_the_scheme() -> None:
    check_scheme("postgresql+psycopg://db/x", "search storage", ("postgresql", "sqlite"))
    with pytest.raises(RequestError, match="'mysql\\+x' is not"):
        check_scheme("mysql+x://db/x", "search storage", ("postgresql", "sqlite"))


def test_a_model_in_the_registry_holds_no_secret() -> None:
    for text in ("models:/digits@champion", "models:/digits@champion: MLflow cannot load it"):
        assert masked_text(text) == text
    assert "s3cret" not in masked_text("models:/a:s3cret@host/x")
