"""Programs of the page's host that tests cannot have, in their place.

Where a page's ``aws`` asks for what S3 can do, botocore checks its words as Amazon's program would,
by the same description of the service, and asks the store of the tests.
"""

from __future__ import annotations

# start, stop or restart postgresql@18-main, as Debian calls it; or postgresql, all of them
SYSTEMCTL = """#!/bin/sh
version=${{2#postgresql}}
version=${{version#@}}
version=${{version%-main}}
version=${{version:-{running}}}
exec env -i PATH="$PATH" LC_ALL=C TZ=UTC {root}/usr/lib/postgresql/$version/bin/pg_ctl -w -s \\
    -D {root}/var/lib/postgresql/$version/main -l {root}/log "$1"
"""

# What another archiver would do with a segment; the migration page calls it.
PGBACKREST = """#!/bin/sh
test -e {root}/srv/broken && exit 1
for path; do :; done
mkdir -p {root}/srv/pgbackrest && cp "$path" {root}/srv/pgbackrest/
"""

# For hidden lines: one value of what a command prints as JSON.
FIELD = """
import json, sys
found = json.load(sys.stdin)
for name in sys.argv[1:]:
    found = found[int(name) if isinstance(found, list) else name]
print(found)
"""

# A bucket is a directory, except for `aws s3api`.
AWS = """#!/bin/sh
case "$1 $2" in
    "s3 ls") exec ls "${{3#file://}}" ;;
    "s3 sync") exec cp -r "${{3#file://}}" "$4" ;;
    "s3 cp") test "$3" = --recursive && exec cp -r "${{4#file://}}" "$5" ;;
    "s3api "*) shift; exec {python} {root}/bin/s3api "$@" ;;
esac
echo "the stand-in for aws does not know: $*" >&2
exit 2
"""

S3API = """
import json, os, sys
import botocore.session
from botocore.config import Config

operation, *words = sys.argv[1:]
given = {}
while words:
    name = "".join(part.capitalize() for part in words.pop(0).lstrip("-").split("-"))
    value = True if not words or words[0].startswith("--") else words.pop(0)
    if str(value).startswith("{"):
        value = json.loads(value)
    elif "=" in str(value):
        value = dict([value.split("=")])
    given[name] = value
s3 = botocore.session.Session().create_client(
    "s3",
    region_name="us-east-1",
    endpoint_url=os.environ["PGKEEP_ENDPOINT"],
    aws_access_key_id=os.environ["PGKEEP_ACCESS_KEY_ID"],
    aws_secret_access_key=os.environ["PGKEEP_SECRET_ACCESS_KEY"],
    config=Config(s3={"addressing_style": "path"}),
)
getattr(s3, operation.replace("-", "_"))(**given)
"""
