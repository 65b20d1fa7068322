import pytest

from duckmesh.domain.errors import InvalidName
from duckmesh.domain.names import check_column_name, check_table_name, check_tenant_name, fold

NEVER = [
    "",
    " ",
    "a b",
    "a.b",
    "a/b",
    "../a",
    'a"b',
    "a'b",
    "a;b",
    "ä",
    "a\n",
    "a\x00",
    "1a" * 40,
    "a" * 64,
    "$a",
    "a-",
]


@pytest.mark.parametrize("name", ["a", "_a", "A1", "a" * 63, "select"])
def test_plain_identifiers_name_tables_and_columns(name: str) -> None:
    assert check_table_name(name) == check_column_name(name) == name


@pytest.mark.parametrize("name", [*NEVER, "1a", "-a"])
def test_what_is_not_plain_names_neither(name: str) -> None:
    for check in (check_table_name, check_column_name):
        with pytest.raises(InvalidName):
            check(name)


@pytest.mark.parametrize("name", ["main", "Information_Schema", "pg_catalog", "duckdb_tables", "PRAGMA_x", "_dm_x"])
def test_names_of_the_engine_are_reserved_for_tables(name: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        check_table_name(name)


@pytest.mark.parametrize("name", ["_token", "_Event_Time", "_DM_row"])
def test_names_of_ours_are_reserved_for_columns(name: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        check_column_name(name)


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "a" * 63])
def test_tenants_have_lower_case_names(name: str) -> None:
    assert check_tenant_name(name) == name


@pytest.mark.parametrize("name", [n for n in NEVER if n != "a-"] + ["A", "-a", "_a"])
def test_what_is_not_plain_is_no_tenant(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        check_tenant_name(name)
    assert len(refused.value.context["name"]) <= 80


def test_names_are_compared_without_case() -> None:
    assert fold("OrDers") == fold("orders")
