# shellcheck shell=bash
# What the scripts of pre-training share; sourced after launch.sh. VALID is text that training does
# not see, such as a few thousand passages taken out of the corpus beforehand.

# shellcheck disable=SC2034
{
    TRAIN=${TRAIN:-${PASSAGES[0]}}
    VALID=${VALID:-$WIKI/valid.jsonl}
    PRETRAINING=(--checkpoint_dir "$SAVE_DIR"
        --train_data "$TRAIN" --eval_data "$VALID" --passages "${PASSAGES[@]}"
        --reader_model_type "$READER" --retriever_model_path facebook/contriever
        --train_retriever --refresh_index 1000 --gold_score_mode pdist
        --temperature_gold 0.01 --temperature_score 0.01
        --retrieve_with_rerank --n_to_rerank_with_retrieve_with_rerank 100
        --n_context 20 --retriever_n_context 20 --text_maxlength 384 --target_maxlength 64
        --min_words_per_lm_instance 10
        --per_gpu_batch_size 2 --precision fp32 "${SAVE_MEMORY[@]}"
        --lr 1e-4 --lr_retriever 1e-5 --scheduler linear --dropout 0.1 --weight_decay 0.01
        --warmup_steps 1000 --total_steps "${STEPS:-10000}"
        --eval_freq 1000 --save_freq 1000 --log_freq 10)
}
