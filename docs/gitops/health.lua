-- Health of a LoadBalancerStack for Argo CD: resource.customizations.health.lb-operator.io_LoadBalancerStack.
local health = {status = "Progressing", message = "waiting for the operator"}
local status = obj.status
if status == nil or status.phase == nil then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function message_of(...)
  for _, type in ipairs({...}) do
    local condition = conditions[type]
    if condition ~= nil and condition.message ~= nil and condition.message ~= "" then
      return condition.message
    end
  end
  return status.phase
end
local function is(type, value)
  return conditions[type] ~= nil and conditions[type].status == value
end

if obj.metadata.deletionTimestamp ~= nil then
  health.message = message_of("DeletionBlocked", "Progressing")
  return health
end
if status.observedGeneration ~= obj.metadata.generation then
  return health
end
if is("Degraded", "True") or status.phase == "Degraded" or status.phase == "RollingBack" then
  health.status = "Degraded"
  health.message = message_of("Degraded")
elseif status.phase == "Paused" or status.phase == "Blocked" then
  health.status = "Suspended"
  health.message = message_of("Paused", "Progressing")
elseif status.phase == "Ready" then
  health.status = "Healthy"
  health.message = message_of("Ready")
else
  health.message = message_of("Progressing", "Ready")
end
return health
