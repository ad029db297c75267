#!/usr/bin/env bash
# LEAD's data, mspas: the passages of MS MARCO with titles, questions, judgements, first negatives.
#
#   bash example_scripts/lead/get_data.sh
#
# Downloads RocketQA's copy of MS MARCO (1.1 GB) and Microsoft's triples (2.2 GB), or goes on where
# it was stopped, and writes DATA_DIR/lead/mspas. It does not fetch MS-DOC, nor the files that LEAD
# released: of those that you have, preprocessing/prepare_lead.py makes the same folder.
set -euo pipefail
source example_scripts/lead/common.sh

DATA=$DATA_DIR/lead/mspas
RAW=$DATA/downloads
MARCO=https://rocketqa.bj.bcebos.com/corpus/marco.tar.gz
TRIPLES=https://msmarco.z22.web.core.windows.net/msmarcoranking/qidpidtriples.train.full.2.tsv.gz

run mkdir -p "$RAW"
for url in "$MARCO" "$TRIPLES"; do
    run curl --fail --location --continue-at - --output "$RAW/$(basename "$url")" "$url"
done
run tar --extract --gzip --file "$RAW/marco.tar.gz" --directory "$RAW"

run python preprocessing/prepare_msmarco.py --para "$RAW/marco/para.txt" \
    --para_title "$RAW/marco/para.title.txt" \
    --triples "$RAW/qidpidtriples.train.full.2.tsv.gz" --output_dir "$DATA"
run cp "$RAW/marco/train.query.txt" "$DATA/train.queries.tsv"
run cp "$RAW/marco/qrels.train.tsv" "$DATA/train.qrels.tsv"
run cp "$RAW/marco/dev.query.txt" "$DATA/dev.queries.tsv"
run cp "$RAW/marco/qrels.dev.tsv" "$DATA/dev.qrels.tsv"
run python preprocessing/build_train.py --tokenizer_name "$MODEL_12" \
    --negative_file "$DATA/train.negatives.tsv" --qrels "$DATA/train.qrels.tsv" \
    --queries "$DATA/train.queries.tsv" --collection "$DATA/corpus.tsv" \
    --save_to "$DATA/first" --form reference --n_sample 100 --merge
run cp "$DATA/first/train.jsonl" "$DATA/train.jsonl"
