#!/bin/bash
# Send one deletion request and print what changes, with seconds, until the deletion is exact.
# Usage: show.sh URL USER OUT. Needs curl and jq.
set -eu
URL="$1"; USER_ID="$2"; OUT=$3; mkdir -p "$OUT"; T0=$(date +%s.%N)
el() { python3 -c "print(f'{$(date +%s.%N)-$T0:7.1f} s')"; }
R=$(curl -s -X POST "$URL/forget" -H 'Content-Type: application/json' -d "{\"user_id\": \"$USER_ID\"}" -w '\n%{http_code}')
ID=$(echo "$R" | head -1 | jq -r .id); echo "$(el)  $(echo "$R" | tail -1)  $(echo "$R" | head -1 | jq -c '{id,status,assurance,exact_due_at}')"
LAST=""
for i in $(seq 1 2400); do
  J=$(curl -s "$URL/forget/$ID" | jq -c '{status,assurance,outcome,release,exact_at}')
  W=$(curl -s "$URL/jobs?limit=1" | jq -c '.items[0]|{kind,reason,status,stage}')
  if [ "$J$W" != "$LAST" ]; then echo "$(el)  $J  job $W"; LAST="$J$W"; fi
  if [ "$(echo "$J" | jq -r .assurance)" = exact ]; then break; fi
  sleep 0.3
done
curl -s "$URL/forget/$ID/certificate?number=1" > "$OUT"/first.json
curl -s "$URL"/forget/"$ID"/certificate > "$OUT"/second.json
curl -s "$URL"/forget/"$ID"/certificates | jq -c '.items[]|{number,kind,created_at}'
jq -cjS . "$OUT"/first.json | sha256sum | cut -d ' ' -f 1
jq -r .payload "$OUT"/second.json | base64 -d | jq -r .predicate.cites.sha256
