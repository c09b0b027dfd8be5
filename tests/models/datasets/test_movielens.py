"""Tests of the readers of the three MovieLens layouts, on small generated files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.datasets.detect import DataSetError, detect_format, read
from models.datasets.text_files import MAX_LINE

if TYPE_CHECKING:
    from models.data.interactions import Interactions

SHIPPED = Path(__file__).parents[3] / "data" / "ml-latest-small"


def rows(data: Interactions) -> list[tuple[str, str, float, int]]:
    return [
        (
            data.users[data.user[i]].id,
            data.items[data.item[i]].id,
            float(data.rating[i]),
            int(data.timestamp[i]),
        )
        for i in range(len(data))
    ]


def write_latest(directory: Path, ratings: str, movies: str | None = None) -> Path:
    movies = movies or (
        "movieId,title,genres\n"
        "7,Amélie (2001),Comedy|Romance\n"
        '3,"American President, The (1995)",(no genres listed)\n'
        '9,"Say ""Hi"" (1990)",Drama\n'
    )
    (directory / "movies.csv").write_text(movies, encoding="utf-8")
    (directory / "ratings.csv").write_text(ratings, encoding="utf-8")
    return directory


FILLING = 400
HEADER = "userId,movieId,rating,timestamp\n"


def test_latest_reads_half_stars_and_keeps_item_order(tmp_path: Path) -> None:
    path = write_latest(tmp_path, HEADER + "b,7,4.5,20\na,3,0.5,10\nb,3,5,30\n")
    assert detect_format(path) == "movielens-latest"
    data, report = read(path)
    assert rows(data) == [("b", "7", 4.5, 20), ("a", "3", 0.5, 10), ("b", "3", 5.0, 30)]
    assert [item.id for item in data.items] == ["7", "3", "9"]
    assert [item.title for item in data.items] == [
        "Amélie (2001)",
        "American President, The (1995)",
        'Say "Hi" (1990)',
    ]
    assert [dict(item.attributes) for item in data.items] == [
        {"genre": ("Comedy", "Romance")},
        {},
        {"genre": ("Drama",)},
    ]
    assert (report.lines, report.accepted, report.described) == (6, 3, 3)
    assert report.rejected == report.duplicates == 0


def test_latest_accepts_path_of_ratings_file(tmp_path: Path) -> None:
    write_latest(tmp_path, HEADER + "a,7,4,1\n")
    data, report = read(tmp_path / "ratings.csv")
    assert report.format == "movielens-latest"
    assert len(data.items) == 3


def test_malformed_lines_are_reported_with_line_numbers(tmp_path: Path) -> None:
    lines = [
        "a,7,4,978300760",  # 2
        "a,7,4",  # 3: a field is missing
        "a,7,4.2,978300760",  # 4: not a half star
        "a,7,0,1",  # 5: out of range
        "a,7,5.5,1",  # 6: out of range
        "a,7,nan,1",  # 7: a marker of a missing value
        "a,7,1_0,1",  # 8: not a number
        "a,7,4,yesterday",  # 9: not a timestamp
        "a,7,4,1260759144000",  # 10: milliseconds
        "a,7,4,-1",  # 11
        ",7,4,1",  # 12: no user
        "a,,4,1",  # 13: no item
        "a,12345,4,1",  # 14: not in the catalog
        'a,"7,4,1',  # 15: an open quote
        "",  # 16: blank, not counted
        "a,9,4,1,1",  # 17: one field too many
        "x" * (MAX_LINE + 1),  # 18
        "a,9,\0,1",  # 19
        "c,9,3.5,978300765",  # 20
    ]
    # One bad rating or time in a hundred is a bad line; more of them are another scale or unit.
    lines += [f"b{n},9,4,978300760" for n in range(FILLING)]
    path = write_latest(tmp_path, HEADER + "\n".join(lines) + "\n")
    data, report = read(path)
    assert rows(data)[:2] == [("a", "7", 4.0, 978300760), ("c", "9", 3.5, 978300765)]
    locations = {
        reason: [(example.file, example.line) for example in group.examples]
        for reason, group in report.rejections.items()
    }
    assert locations == {
        reason: [("ratings.csv", line) for line in numbers]
        for reason, numbers in {
            "the line does not have as many fields as the header": [3, 17],
            "the rating is not a whole or half star": [4],
            "the rating is not within 0.5 to 5 stars": [5, 6],
            "the rating is missing": [7],
            "the rating is not a number": [8],
            "the timestamp is neither Unix seconds nor ISO 8601": [9],
            "the timestamp seems to be in milliseconds, others are in seconds": [10],
            "the timestamp is negative, so before 1970": [11],
            "the user id is missing": [12],
            "the item id is missing": [13],
            "the rated item is not in the catalog": [14],
            "the quotes are not balanced": [15],
            f"the line is longer than {MAX_LINE:,} characters": [18],
            "the line has a NUL byte": [19],
        }.items()
    }
    assert report.lines == report.accepted + report.described + report.rejected == FILLING + 18 + 3
    assert [user.id for user in data.users][:2] == ["a", "c"]


def test_counts_include_lines_without_example(tmp_path: Path) -> None:
    path = write_latest(tmp_path, HEADER + "a,7,,1\n" * 25 + "a,7,4,1\n" * 26)
    _, report = read(path)
    ((reason, group),) = report.rejected_by_reason()
    assert "rating is missing" in reason
    assert group.count == report.rejected == 25
    assert [example.line for example in group.examples] == list(range(2, 12))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [("2,10", "3,20", (3.0, 20)), ("2,20", "3,10", (2.0, 20)), ("2,10", "3,10", (3.0, 10))],
)
def test_later_duplicate_replaces_earlier(
    tmp_path: Path, first: str, second: str, kept: tuple[float, int]
) -> None:
    path = write_latest(tmp_path, f"{HEADER}a,7,{first}\nb,7,1,1\na,7,{second}\n")
    data, report = read(path)
    assert sorted(rows(data)) == [("a", "7", *kept), ("b", "7", 1.0, 1)]
    assert (report.accepted, report.duplicates, report.lines) == (2, 1, 6)


def test_windows_line_breaks_and_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    path = write_latest(tmp_path, "")
    (path / "ratings.csv").write_bytes(
        b"\xef\xbb\xbf" + (HEADER + "a,7,4,1\nbad\na,9,2,2").replace("\n", "\r\n").encode()
    )
    data, report = read(path)
    assert rows(data) == [("a", "7", 4.0, 1), ("a", "9", 2.0, 2)]
    assert [str(g.examples[0]) for g in report.rejections.values()] == [
        "ratings.csv:3: the line does not have as many fields as the header"
    ]


def test_repeated_movie_is_rejected(tmp_path: Path) -> None:
    movies = "movieId,title,genres\n7,A,Drama\n7,B,Comedy\nx,\n"
    data, report = read(write_latest(tmp_path, HEADER + "a,7,4,1\n", movies))
    assert [item.title for item in data.items] == ["A"]
    assert sorted(str(g.examples[0]) for g in report.rejections.values()) == [
        "movies.csv:3: the item is listed twice; its first line counts",
        "movies.csv:4: the line does not have as many fields as the header",
    ]


def test_error_for_other_header_names_expected_header(tmp_path: Path) -> None:
    path = write_latest(tmp_path, "who,movie,points,when\na,7,4,1\n")
    with pytest.raises(DataSetError, match="no column for: user, rating, timestamp"):
        read(path)
    path = write_latest(tmp_path, HEADER + "a,7,4,1\n", "number,name\n7,Heat\n")
    with pytest.raises(DataSetError, match=r"movies\.csv has no column for: item"):
        read(path)


@pytest.mark.parametrize(
    ("ratings", "movies"),
    [
        ("userId,movieId,rating,timestamp,tag\na,7,4,1,x\n", "movieId,title,genres\n7,Heat,War\n"),
        (HEADER + "a,7,4,1\n", "movieId,year,title,genres\n7,1995,Heat,War\n"),
        (HEADER.replace(",", ";") + "a;7;4;1\n", "movieId;title;genres\n7;Heat;War\n"),
        (HEADER + "a,7,4,1\n", 'movieId,title,genres\n7,"Heat",War\n'),
        (
            "\ufeffuserId,movieId,rating,timestamp\na,7,4,1\n",
            "\ufeffmovieId,genres,title\n7,War,Heat\n",
        ),
    ],
)
def test_files_may_have_other_columns_and_separators(
    tmp_path: Path, ratings: str, movies: str
) -> None:
    path = write_latest(tmp_path, ratings, movies)
    assert detect_format(path) == "movielens-latest"
    for given in (path, path / "ratings.csv"):
        data, report = read(given)
        assert rows(data) == [("a", "7", 4.0, 1)]
        assert (data.items[0].title, data.items[0].attributes) == ("Heat", {"genre": ("War",)})
        assert report.rejected == 0


def test_title_may_have_a_line_break(tmp_path: Path) -> None:
    movies = 'movieId,title,genres\n7,"Heat\n(1995)",War\n8,"Se7en, (1995)",War\n'
    data, report = read(write_latest(tmp_path, HEADER + "a,7,4,1\na,8,4,2\n", movies))
    assert [item.title for item in data.items] == ["Heat (1995)", "Se7en, (1995)"]
    assert report.rejected == 0


def test_error_without_usable_rating_lists_reasons(tmp_path: Path) -> None:
    path = write_latest(tmp_path, HEADER + "a,7,,1\na,8,4,1\na,7,,1\n")
    with pytest.raises(DataSetError, match=r"2 times the rating is missing.*ratings\.csv:2"):
        read(path)


def test_shipped_data_set_is_read_completely() -> None:
    data, report = read(SHIPPED)
    assert (len(data), len(data.users), len(data.items)) == (100_004, 671, 9_125)
    assert report.rejected == report.duplicates == 0
    assert data.items[0].title == "Toy Story (1995)"
    assert sum(not item.attributes for item in data.items) == 18
    assert sorted(set(data.rating.tolist())) == [n / 2 for n in range(1, 11)]


def write_1m(directory: Path) -> Path:
    (directory / "movies.dat").write_bytes(
        "1::Amélie: a::b (2001)::Comedy|Romance\n5::Heat (1995)::Crime\nbroken\n".encode("latin-1")
    )
    (directory / "users.dat").write_text(
        "1::F::1::10::48067\n2::M::56::16::70072\n3::?::25::0::x\n4::M::25\n5::m::50::99::1\n"
    )
    (directory / "ratings.dat").write_text(
        "1::5::4::978300760\n2::1::3::978302109\n6::1::5::978301968\n2:1:3:4\n"
    )
    return directory


def test_1m_reads_latin_1_and_translates_codes(tmp_path: Path) -> None:
    path = write_1m(tmp_path)
    assert detect_format(path) == "movielens-1m"
    data, report = read(path)
    assert [item.title for item in data.items] == ["Amélie: a::b (2001)", "Heat (1995)"]
    assert data.items[0].attributes == {"genre": ("Comedy", "Romance")}
    assert {user.id: dict(user.attributes) for user in data.users} == {
        "1": {"gender": "F", "age": "under 18", "occupation": "K-12 student".lower()},
        "2": {"gender": "M", "age": "56+", "occupation": "self-employed"},
        "3": {"age": "25-34"},
        "5": {"gender": "M", "age": "50-55"},
        "6": {},
    }
    assert rows(data)[0] == ("1", "5", 4.0, 978300760)
    assert sorted(str(g.examples[0]) for g in report.rejections.values()) == [
        "movies.dat:3: the line does not have 3 fields",
        "ratings.dat:4: the line does not have 4 fields",
        "users.dat:4: the line does not have 5 fields",
    ]
    assert report.notes == ["movies.dat is not UTF-8 and was read as Latin-1"]
    assert report.lines == report.accepted + report.described + report.rejected


def test_1m_without_users_file_gives_no_attributes(tmp_path: Path) -> None:
    (write_1m(tmp_path) / "users.dat").unlink()
    data, report = read(tmp_path)
    assert all(not user.attributes for user in data.users)
    assert any("users.dat is missing" in note for note in report.notes)


def item_line(identity: int, title: str, genres: set[int], count: int = 19) -> str:
    flags = "|".join(str(int(number in genres)) for number in range(count))
    return f"{identity}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact?x|{flags}\n"


def write_100k(directory: Path) -> Path:
    items = item_line(2, "Amélie | b (2001)", {5, 14}) + item_line(1, "unknown", {0})
    (directory / "u.item").write_bytes((items + "3|No flags|||\n").encode("latin-1"))
    (directory / "u.user").write_text(
        "1|24|M|technician|85711\n2|53|F|other|94043\n3|x|M|none|1\n9|7|F|writer\n"
    )
    (directory / "u.data").write_text(
        "1\t2\t3\t881250949\n2\t1\t5\t891717742\n4\t2\t1\t1\n1 2 3 4\n1\t2\t4\t881250950\n"
    )
    return directory


@pytest.mark.parametrize("with_genres", [True, False])
def test_100k_reads_genre_flags_and_users(tmp_path: Path, with_genres: bool) -> None:
    path = write_100k(tmp_path)
    names = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy"]
    names += [*(f"g{number}" for number in range(6, 14)), "Romance"]
    names += [f"g{number}" for number in range(15, 19)]
    if with_genres:
        lines = (f"{name}|{number}\n" for number, name in enumerate(names))
        (path / "u.genre").write_text("".join(lines) + "\n")
    assert detect_format(path) == "movielens-100k"
    data, report = read(path)
    assert [(item.id, item.title) for item in data.items] == [
        ("2", "Amélie | b (2001)"),
        ("1", "unknown"),
    ]
    assert [dict(item.attributes) for item in data.items] == [{"genre": ("Comedy", "Romance")}, {}]
    assert {user.id: dict(user.attributes) for user in data.users} == {
        "1": {"gender": "M", "age": "18-24", "occupation": "technician"},
        "2": {"gender": "F", "age": "50-55"},
        "3": {"gender": "M"},
        "4": {},
    }
    assert sorted(rows(data)) == [
        ("1", "2", 4.0, 881250950),
        ("2", "1", 5.0, 891717742),
        ("4", "2", 1.0, 1),
    ]
    assert report.duplicates == 1
    assert sorted(str(g.examples[0]) for g in report.rejections.values()) == [
        "u.data:4: the line does not have 4 fields",
        "u.item:3: the line does not have 23 fields",
        "u.user:4: the line does not have 5 fields",
    ]
