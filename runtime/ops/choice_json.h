// A choice in the note of tuned plans, and in what tune reports.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "ops/plan.h"

namespace mamba_scan::ops {

inline constexpr std::array<std::pair<const char*, bool PlanChoice::*>, 5> kChoiceFlags{
    {{"cut", &PlanChoice::cut},
     {"wrapped", &PlanChoice::wrapped},
     {"served", &PlanChoice::served},
     {"whole_rows", &PlanChoice::whole_rows},
     {"together", &PlanChoice::together}}};

inline constexpr std::array<std::pair<const char*, std::int16_t PlanChoice::*>, 9> kChoiceNumbers{
    {{"lanes", &PlanChoice::lanes},
     {"channels", &PlanChoice::channels},
     {"tile", &PlanChoice::tile},
     {"unroll", &PlanChoice::unroll},
     {"stages", &PlanChoice::stages},
     {"min_blocks", &PlanChoice::min_blocks},
     {"warps", &PlanChoice::warps},
     {"slices", &PlanChoice::slices},
     {"abreast", &PlanChoice::abreast}}};

inline nlohmann::ordered_json choice_to_json(const PlanChoice& choice) {
  nlohmann::ordered_json json;
  for (const auto& [name, flag] : kChoiceFlags) json[name] = choice.*flag;
  for (const auto& [name, number] : kChoiceNumbers) json[name] = choice.*number;
  return json;
}

// Throws nlohmann's exceptions where something is missing or of another type.
inline PlanChoice choice_from_json(const nlohmann::ordered_json& json) {
  PlanChoice choice;
  for (const auto& [name, flag] : kChoiceFlags) choice.*flag = json.at(name).get<bool>();
  for (const auto& [name, number] : kChoiceNumbers) choice.*number = json.at(name).get<std::int16_t>();
  return choice;
}

}  // namespace mamba_scan::ops
