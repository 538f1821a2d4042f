// What Leeward needs in Azure before a failover: a network with a subnet for machines that
// are failed over, an identity for control with the least rights, and, if a vault is to be
// kept in Azure too, a storage account for it.
//
//   az group create -n recovery -l westeurope
//   az deployment group create -g recovery -f deploy/azure/main.bicep -p storageName=myvault123
//
// See docs/ops/azure.md. This file was never deployed by its authors.
targetScope = 'resourceGroup'

@description('Region of everything, and of machines that are failed over')
param location string = resourceGroup().location

@description('Name of the storage account for the vault: 3 to 24 small letters and digits; empty: none is made')
param storageName string = ''

@description('Addresses of the network for machines that are failed over')
param addressPrefix string = '10.77.0.0/16'

@description('Addresses of its subnet')
param subnetPrefix string = '10.77.0.0/24'

var blobDataContributor = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'leeward-control'
  location: location
}

resource guard 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: 'leeward-servers'
  location: location
  // The rules that Azure has by itself: in from the network only, out to everywhere.
  properties: {}
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'site'
  location: location
  properties: {
    addressSpace: { addressPrefixes: [addressPrefix] }
    subnets: [
      {
        name: 'servers'
        properties: {
          addressPrefix: subnetPrefix
          networkSecurityGroup: { id: guard.id }
        }
      }
    ]
  }
}

resource role 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(resourceGroup().id, 'leeward-failover')
  properties: {
    roleName: 'Leeward failover ${uniqueString(resourceGroup().id)}'
    description: 'Makes and removes machines that Leeward fails over'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {
        actions: loadJsonContent('role.json', 'Actions')
      }
    ]
  }
}

resource mayFailOver 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(resourceGroup().id, identity.id, 'failover')
  properties: {
    roleDefinitionId: role.id
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = if (!empty(storageName)) {
  name: empty(storageName) ? 'none' : storageName
  location: location
  kind: 'StorageV2'
  sku: { name: 'Standard_ZRS' }
  properties: {
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    allowSharedKeyAccess: false
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = if (!empty(storageName)) {
  parent: storage
  name: 'default'
}

resource vault 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = if (!empty(storageName)) {
  parent: blobs
  name: 'vault'
}

resource mayUseVault 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(storageName)) {
  name: guid(resourceGroup().id, identity.id, 'vault')
  scope: vault
  properties: {
    roleDefinitionId: blobDataContributor
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

@description('For identity in azure.yaml')
output identityClientId string = identity.properties.clientId

@description('For subnet in azure.yaml')
output subnet string = '${network.name}/servers'

@description('The store URL of the vault')
output vaultUrl string = empty(storageName) ? '' : 'azure://${storageName}/vault'
