# shellcheck shell=bash
# What the scripts for MMLU share; sourced after launch.sh.

# shellcheck disable=SC2034
{
    MMLU=$DATA_DIR/data/mmlu_data
    READING=(--task multiple_choice --checkpoint_dir "$SAVE_DIR" --reader_model_type "$READER"
        --model_path "$PRETRAINED" --passages "${PASSAGES[@]}" --n_context 30
        --text_maxlength 512 --target_maxlength 16 --precision fp32 --per_gpu_batch_size 1
        --multiple_choice_num_options 4 --multiple_choice_eval_permutations cyclic --write_results)
    TRAINING=(--shuffle --train_retriever --retriever_n_context 30
        --gold_score_mode pdist --temperature_gold 0.1 --temperature_score 0.1
        --multiple_choice_train_permutations all "${SAVE_MEMORY[@]}"
        --lr 5e-5 --lr_retriever 1e-5 --scheduler linear --dropout 0.1 --weight_decay 0.01)
}
